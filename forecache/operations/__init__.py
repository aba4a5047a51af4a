"""Operations that move a model and the store together; each completes or is undone."""
