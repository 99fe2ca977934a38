"""Set up a Prefect server: work pool and queues, deployments, alert blocks and automations."""
