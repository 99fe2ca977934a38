"""Who may do what at the team's MLflow server, decided by the server itself.

MLflow's own basic authentication cannot tell "register a version" from "make it the champion": both are an update of
the registered model. So the server runs our app (``mlflow server --app-name notellm2``,
`notellm2.access.app`): MLflow's, and on top of it a list of what each role may do
(`notellm2.access.rules`). What is not on the list is for administrators.

``python -m notellm2.access`` makes the users (`notellm2.access.people`). This package is installed
into the server's image without our other dependencies: it imports the standard library, mlflow and what mlflow brings.
"""
