#!/bin/sh
# make demo: the whole life of an update, with nothing but the commands a user would type.
# Every command is printed before it runs. State is kept in out/demo and can be deleted.
set -eu
cd "$(dirname "$0")/.."

dir=$PWD/out/demo
eos=$PWD/bin/eos
export EOS_KEYS=$dir/keys EOS_MACHINES=$dir/machines
port=${DEMO_PORT:-8080}
ssh_port=${DEMO_SSH_PORT:-10022}
started=$(date +%s)
mkdir -p "$dir"

bold="" plain=""
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
say() { printf '\n%s[%4ds] %s%s\n' "$bold" $(($(date +%s) - started)) "$*" "$plain"; }
run() {
	printf '$ %s\n' "$*" | sed "s#$PWD/##g"
	t=$(date +%s)
	status=0
	"$@" || status=$?
	t=$(($(date +%s) - t))
	if [ $t -gt 2 ]; then printf '  (%d s)\n' $t; fi
	return $status
}
on() { "$eos" ssh --name demo -- "$@"; }

# wait_for WHAT SECONDS TEXT: until `os-update --status` on the device has TEXT.
wait_for() {
	t=$(date +%s)
	while ! on os-update --status 2>/dev/null </dev/null | grep -q "$3"; do
		if [ $(($(date +%s) - t)) -gt "$2" ]; then
			echo "demo: $1: not within $2 s; the end of the console:" >&2
			tail -n 40 "$dir/machines/demo/serial.log" >&2
			exit 1
		fi
		sleep 1
	done
	printf '  %s after %d s\n' "$1" $(($(date +%s) - t))
}

server=""
finish() {
	status=$?
	if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
	"$eos" stop --power-cut --name demo >/dev/null 2>&1 || true
	exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

say "Keys: one signs images, three sign the repository. Private halves stay here."
if [ -e "$EOS_KEYS/root.json" ]; then
	run "$eos" keys list
else
	run "$eos" keys new
fi

say "Two versions of a Debian 13 based image; the second has one more package and another greeting."
cp apps/basesystem.yaml "$dir/"
sed -e 's|\.\./apps/||' -e 's/^version: .*/version: 1.0.0/' images/eos.yaml >"$dir/eos-1.yaml"
# The second version, as an engineer would make it: raise the version, add a package and a file.
sed -e 's|\.\./apps/||' -e 's/^version: .*/version: 2.0.0/' -e 's/^  - less$/  - less\n  - htop/' images/eos.yaml >"$dir/eos-2.yaml"
cat >>"$dir/eos-2.yaml" <<'YAML'

files:
  - path: /etc/motd
    content: |
      Welcome to version 2.
YAML
run "$eos" build -f "$dir/eos-1.yaml" -o "$dir" --dev
run "$eos" build -f "$dir/eos-2.yaml" -o "$dir" --dev

say "A signed repository with version 2, and a server for it (any HTTP server would do)."
rm -rf "$dir/repo"
run "$eos" publish "$dir/eos-2.0.0.slot" --repo "$dir/repo"
printf '$ eos serve --repo out/demo/repo --listen 127.0.0.1:%s &\n' "$port"
"$eos" serve --repo "$dir/repo" --listen "127.0.0.1:$port" >"$dir/serve.log" 2>&1 &
server=$!
sleep 1
kill -0 $server 2>/dev/null || {
	cat "$dir/serve.log" >&2
	echo "hint: is the port taken? DEMO_PORT=8081 make demo" >&2
	exit 1
}

say "Version 1 boots from cold: firmware, GRUB, eos-init, systemd."
run "$eos" run "$dir/eos-1.0.0.raw" --name demo --fresh --detach --ssh-port "$ssh_port"
wait_for "version 1 is up and its boot is proved" 600 '^slot a .*committed.*good'
grep -a 'eos-init: slot' "$dir/machines/demo/serial.log" | tail -n 1 | sed 's/^/  /'
run on os-update --status

say "At this first boot the device has made its registry, encrypted and sealed to its TPM."
run on flake-registry --status
run on podman run --rm --network none basesystem cat /etc/debian_version
on "echo kept in the registry >/var/lib/eos/demo"

say "Is there an update? A few kilobytes of signed metadata say so."
run on os-update --check --json --server "http://10.0.2.2:$port" || [ $? = 10 ] # 10: there is

say "Fetch it, write it to slot B, verify it, and jump into it with kexec."
printf '$ os-update --apply --server http://10.0.2.2:%s\n' "$port"
t=$(date +%s)
# The connection ends with the old system: 255 is what ssh says then.
on os-update --apply --server "http://10.0.2.2:$port" || [ $? = 255 ]
printf '  (%d s)\n' $(($(date +%s) - t))
wait_for "version 2 has proved itself and is committed" 600 '^default .*slot b'
run on os-update --status
run on cat /etc/motd
run on cat /var/lib/eos/demo

say "The proof: pull the plug, start from cold."
run "$eos" stop --power-cut --name demo
run "$eos" run --name demo --detach
wait_for "version 2 is up again, from cold" 600 '^running .*slot b'
run on os-update --status

say "Roll back to version 1, which is still there."
wait_for "version 2's boot is proved" 600 '^slot b .*good'
run on os-update --rollback
on os-update --reboot || [ $? = 255 ]
wait_for "version 1 is up" 600 '^running .*slot a'
run on os-update --status

say "Done: built, booted, updated, committed, proved, rolled back."
ls -l "$dir"/eos-*.slot "$dir"/eos-*.raw.zst | awk '{printf "  %-40s %6.1f MB\n", $NF, $5/1e6}' | sed "s#$PWD/##"
