# Sourced by /etc/profile, which has just set PATH to Debian's default: the programs that `pip install --user` installs
# are found in a login shell too, as everywhere in the image.
case ":$PATH:" in
*":${HOME:-}/.local/bin:"*) ;;
*) PATH="${HOME:-}/.local/bin:$PATH" ;;
esac
