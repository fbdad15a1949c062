"""Show the built site in a browser, on this machine only.

bazel run //docs:serve
bazel run //docs:serve -- --port 8123 --no-browser
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(prog="bazel run //docs:serve --", description=__doc__)
    parser.add_argument("folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(arguments)
    handler = partial(SimpleHTTPRequestHandler, directory=str(options.folder))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    except OSError as error:
        sys.exit(f"port {options.port} cannot be had: {error.strerror}")
    address = f"http://127.0.0.1:{server.server_port}/"
    print(f"{address}  (Ctrl-C ends)", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
