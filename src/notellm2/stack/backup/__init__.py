"""Back up a team's set-up and bring it back: databases, object store, artifacts and the pointer, as of one moment.

`installation` says what there is, `archive` is the folder backups lie in, `save` makes one while everything runs and
`restore` verifies and brings one back. Nothing here knows whether the servers run natively or in containers: PostgreSQL
and the object store are reached by the settings that everything else uses.
"""
