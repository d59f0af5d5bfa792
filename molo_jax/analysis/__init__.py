"""Statistics of evaluations: on the predictions of many episodes, without network and data."""
