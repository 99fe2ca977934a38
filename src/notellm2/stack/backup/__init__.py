"""Back up a team's set-up and restore it: databases, object store, artifacts and pointer, as of one moment.

`scope` says what belongs into a backup, `archive` is the folder that backups lie in, `save` makes one while everything
runs and `restore` verifies one and brings it back. PostgreSQL and the object store are reached by the settings that
everything else uses, so it does not matter whether the servers run natively or in containers.
"""
