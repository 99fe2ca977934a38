"""What a Prefect server is given: work pool and queues, deployments, alert blocks and automations."""
