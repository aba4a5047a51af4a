.PHONY: model

model: ## Log a model to MLflow, unless there is one
	$(bin)/python -m new_project.log_model

demo: model
