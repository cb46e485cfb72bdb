"""Triggers: where tasks wait. No ORM is imported here, and no site or container is touched by a phase's trigger."""
