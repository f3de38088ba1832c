"""What each kind of record is in the Open Cybersecurity Schema Framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.audit.events import Kind

OTHER = 99


@dataclass(frozen=True, slots=True)
class EventClass:
    """A class of the schema: its uid and caption, and those of its category."""

    uid: int
    name: str
    category_uid: int
    category: str


AUTHENTICATION = EventClass(3002, "Authentication", 3, "Identity & Access Management")
ENTITY = EventClass(3004, "Entity Management", 3, "Identity & Access Management")
LIFECYCLE = EventClass(6002, "Application Lifecycle", 6, "Application Activity")
API = EventClass(6003, "API Activity", 6, "Application Activity")


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a kind of record is in the schema.

    Args:
        event_class: its class.
        activity_id, activity: of that class; 99 where the schema has no word for it.
        status_id: 1 success, 2 failure, 99 neither.
        severity_id: 1 informational, 2 low, 3 medium, 4 high.
        entity: what an event of Entity Management is about.
    """

    event_class: EventClass
    activity_id: int
    activity: str
    status_id: int = 1
    severity_id: int = 1
    entity: str = ""


MAPPING: Mapping[Kind, Mapped] = {
    Kind.BROKER_STARTED: Mapped(LIFECYCLE, 3, "Start"),
    Kind.BROKER_STOPPED: Mapped(LIFECYCLE, 4, "Stop"),
    Kind.TOKEN_ISSUED: Mapped(AUTHENTICATION, 1, "Logon"),
    Kind.TOKEN_REFUSED: Mapped(AUTHENTICATION, 1, "Logon", 2, 2),
    Kind.TOKEN_ABANDONED: Mapped(AUTHENTICATION, OTHER, "Abandon", OTHER),
    Kind.AGENT_ENROLLED: Mapped(ENTITY, 6, "Enroll", entity="AI Agent"),
    Kind.AGENT_CONTAINED: Mapped(ENTITY, 9, "Disable", severity_id=3),
    Kind.CALL_ADMITTED: Mapped(API, OTHER, "Admit"),
    Kind.CALL_REFUSED: Mapped(API, OTHER, "Refuse", 2, 2),
    Kind.CALL_COMPLETED: Mapped(API, OTHER, "Complete"),
    Kind.CALL_FAILED: Mapped(API, OTHER, "Fail", 2, 2),
    Kind.CALL_ABANDONED: Mapped(API, OTHER, "Abandon", OTHER),
    Kind.REFUSALS_COUNTED: Mapped(API, OTHER, "Count Refusals", 2, 2),
    Kind.CHANGE_PROPOSED: Mapped(API, 1, "Create"),
    Kind.CHANGE_REFUSED: Mapped(API, OTHER, "Refuse", 2, 2),
    Kind.CHANGE_ACTIVATED: Mapped(API, 3, "Update"),
    Kind.CHANGE_ABANDONED: Mapped(API, OTHER, "Abandon", OTHER),
    Kind.KEY_PUBLISHED: Mapped(ENTITY, 1, "Create", entity="Signing Key"),
    Kind.KEY_IN_USE: Mapped(ENTITY, 10, "Activate", entity="Signing Key"),
    Kind.KEY_ENDED: Mapped(ENTITY, 11, "Deactivate", entity="Signing Key"),
    Kind.LOG_KEY_ROTATED: Mapped(ENTITY, 3, "Update", severity_id=3, entity="Log Key"),
    Kind.LOG_KEY_ENDED: Mapped(ENTITY, 11, "Deactivate", entity="Log Key"),
    Kind.RECORDS_ERASED: Mapped(API, 4, "Delete", severity_id=3),
    Kind.TRAIL_READ: Mapped(API, 2, "Read"),
    Kind.SHARED_QUERY_CHANGED: Mapped(API, 3, "Update"),
    Kind.LINK_ISSUED: Mapped(ENTITY, 1, "Create", entity="Sign-in Link"),
    Kind.OPERATOR_SIGNED_IN: Mapped(AUTHENTICATION, 1, "Logon"),
    Kind.OPERATOR_REFUSED: Mapped(API, OTHER, "Refuse", 2, 3),
}
"""Every kind; docs/exporting.md shows the same table."""

SIGN_IN_REFUSED = Mapped(AUTHENTICATION, 1, "Logon", 2, 3)
"""An `OperatorRefused` whose action was to sign in."""
