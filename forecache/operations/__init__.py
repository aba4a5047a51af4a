"""Operations on a whole project: publish, release, roll out, roll back, maintain, and report status and cost."""
