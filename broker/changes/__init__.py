"""Journey C: the one way in which what the broker knows changes.

Whatever can widen access (policies, rules, attesters, agents and their ceilings, endpoints, operators) comes as a
manifest, is checked whole, shown with its differences, approved by a second admin once there are two, and activated in
one durable step if nothing it touches has changed meanwhile. Narrowing needs one person and no waiting.
"""
