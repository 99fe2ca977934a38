"""Promotion: the gate, the transaction that moves alias and pointer together, the ledger, rollback and retention."""
