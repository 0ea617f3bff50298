"""A campaign of faults on small images (`make chaos`): kills, errors of the system, full disks, a crowd, rot at rest.

`world` is what is attacked and how a state is judged; `kills`, `system`, `crowd` and `rot` are the attacks. Every try
is judged by the same three questions: is anything wrong, was anything lost, was anything left behind.

May import: everything of the package, and tests.support.
"""
