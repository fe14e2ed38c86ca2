"""The descendants of a child.

`process_tree` says which processes belong to a child, `subreaper` adopts its orphans, `descendant_killer` kills them,
`usage` measures them. `process_tags` and `rlimit_tag` mark processes; `procfs` (elsewhere `psutil_backend`) lists and
signals them; `freeze_and_kill` is the algorithm that ends them.
"""
