"""The domain: insert, search, delete, get, rebuild, sweep; orchestration over three small protocols."""
