"""Run folders: writing the results of a run, and loading and using a finished run.

Modules here may import `report`, `evaluation`, `training`, `features`, `model`, `data`, `recipe`,
`system` and `errors`, but neither `cli` nor `run.py`.
"""
