"""Whether a broker is well: what can be seen on its machine (`machine`), and what it says of itself (`running`)."""
