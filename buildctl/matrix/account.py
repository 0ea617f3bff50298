"""Whom an image's programs run as, and where they are found; what any UID may use belongs to this one."""

USER = "torch"
UID = 1000
HOME = "/home/torch"
# PATH where an image sets none, as Docker's
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
