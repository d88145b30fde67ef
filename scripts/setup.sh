#!/usr/bin/env bash
# Sets up what a command of this repository needs: system packages, npm packages, a Node that is
# new enough. Says what it does; does nothing, in well under a second, when nothing is missing.
#
#   bash scripts/setup.sh [demo|test|bench|all]
#
# System packages stand in scripts/packages-*.txt, one a line; `#` starts a comment.
# Where it may not install them it prints the one line to run and exits 1.
set -eu

cd "$(dirname "$0")/.."
purpose=${1:-all}
case $purpose in
  demo) lists='base lab' ;;
  test) lists='base lab stores' ;;
  bench | all) lists='base lab stores bench' ;;
  *)
    echo "Usage: bash scripts/setup.sh [demo|test|bench|all]" >&2
    exit 2
    ;;
esac

node_least_major=24
node_least_minor=12

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# Prints the wanted packages that are not installed, on one line.
missing_packages() {
  local wanted name installed
  # shellcheck disable=SC2086 # names of lists, to be split
  wanted=$(for list in $lists; do sed 's/#.*//' "scripts/packages-$list.txt"; done | tr -d ' ' | sort -u)
  # shellcheck disable=SC2086 # names of packages, to be split
  installed=" $(dpkg-query -W -f '${Package}=${db:Status-Status} ' $wanted 2>/dev/null || true)"
  for name in $wanted; do
    case $installed in *" $name=installed "*) ;; *) printf '%s ' "$name" ;; esac
  done
}

install_packages() {
  local missing=$1 as_root='' line
  line="sudo apt-get update && sudo apt-get install -y --no-install-recommends $missing"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "system packages are missing, and this user may not install them" \
      "run this line, then the command again:" "  $line"
    as_root=sudo
  fi
  say "installing system packages: $missing"
  # shellcheck disable=SC2086 # names of packages, to be split
  $as_root apt-get update -q &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 $missing ||
    fail "apt-get failed; its messages stand above" "run this line, then the command again:" "  $line"
}

set_up_system_packages() {
  if ! command -v dpkg-query >/dev/null 2>&1; then
    local program
    for program in qemu-system-x86_64 qemu-img qemu-nbd nbdkit; do
      command -v "$program" >/dev/null 2>&1 || fail \
        "this machine is neither Debian nor Ubuntu, and '$program' is missing" \
        "install what stands in scripts/packages-*.txt by your own package manager"
    done
    return
  fi
  architecture=$(dpkg --print-architecture)
  if [ "$architecture" != amd64 ]; then
    fail "the VMs of the demo and of the tests are for amd64, this machine is $architecture" \
      "the other tests run here all the same: npm ci && npm run test:unit"
  fi
  local missing
  missing=$(missing_packages)
  [ -z "$missing" ] || install_packages "$missing"
}

# npm writes node_modules/.package-lock.json last, so it is missing or old after a broken install.
set_up_npm_packages() {
  if [ -f node_modules/.package-lock.json ] &&
    ! [ package-lock.json -nt node_modules/.package-lock.json ]; then return; fi
  [ ! -L node_modules ] ||
    fail "node_modules is a link, and npm ci would empty the folder that it leads to" \
      "run npm ci in the work tree that has this folder, then the command again"
  command -v npm >/dev/null 2>&1 ||
    fail "npm is missing; run this line, then the command again:" "  sudo apt-get install -y nodejs npm"
  say "installing npm packages (npm ci)"
  # Without the Node of node_modules: npm ci removes it while it runs.
  PATH=$(printf '%s' "$PATH" | tr ':' '\n' | grep -v '/node_modules/\.bin$' | paste -sd:) \
    npm ci --no-audit --no-fund --loglevel=error ||
    fail "npm ci failed; its messages stand above"
}

# Whether the version in $1 (v24.12.0) is new enough.
is_new_enough() {
  local version=${1#v} major minor
  major=${version%%.*}
  minor=${version#*.}
  minor=${minor%%.*}
  [ "$major" -gt $node_least_major ] ||
    { [ "$major" -eq $node_least_major ] && [ "$minor" -ge $node_least_minor ]; }
}

# npm puts node_modules/.bin before everything else on the PATH of its scripts. npm 9 installs our
# Node but removes its link there, together with that of the package for the other architecture.
set_up_node() {
  local node version
  for node in node_modules/node-linux-*/bin/node; do
    [ ! -x "$node" ] || [ -e node_modules/.bin/node ] || ln -sf "../../$node" node_modules/.bin/node
  done
  version=$(PATH="$PWD/node_modules/.bin:$PATH" node --version 2>/dev/null) || version=v0.0
  is_new_enough "$version" ||
    fail "Kluis needs Node $node_least_major.$node_least_minor or later; this machine has $version" \
      "npm brought none (it leaves optional packages out?); install one from https://nodejs.org"
}

set_up_system_packages
set_up_npm_packages
set_up_node
