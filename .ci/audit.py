"""Known vulnerabilities of the installed packages, by pip-audit; exit 1 if there are any.

Not every package index tells of them: how many packages it did not know, and a service that cannot be
reached, are said and are no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys

asked = subprocess.run(
    ["pip-audit", "--local", "--skip-editable", "--progress-spinner=off", "--format=json"],
    capture_output=True,
    text=True,
)
if not asked.stdout:
    print("pip-audit: no answer:", asked.stderr.strip().splitlines()[-1])
    sys.exit(0)
packages = json.loads(asked.stdout)["dependencies"]
known = [package for package in packages if "vulns" in package]
found = [(package, vulnerability) for package in known for vulnerability in package["vulns"]]
print(f"pip-audit: {len(known)} of {len(packages)} packages known to the index, {len(found)} vulnerabilities")
for package, vulnerability in found:
    fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
    print(f"  {package['name']} {package['version']}: {vulnerability['id']}, mended in {fixed}")
sys.exit(bool(found))
