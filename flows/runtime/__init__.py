"""What every flow run needs: the embedded server, context, events, data snapshots, recovery, Prefect artifacts."""
