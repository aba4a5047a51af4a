"""`forecache plan`: the stages that a run would carry out, why, and what they would take."""
