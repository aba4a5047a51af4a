BIN ?= @BIN@
