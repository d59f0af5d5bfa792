"""The methods: what is learnt, how a query is scored, and the losses."""
