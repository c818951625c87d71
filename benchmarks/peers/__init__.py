"""Omikuji and PECOS beside ensembles: what each costs, and how accurate it is."""
