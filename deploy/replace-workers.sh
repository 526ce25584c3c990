#!/bin/sh
# Replaces every worker of a running Compose project with a new container, without losing a request:
# starts the same number of new workers beside the old ones, and stops the old ones once the new ones
# are healthy.
#
#   docker compose build worker        # or TAG=v2 in front of both commands, and then in .env, which the
#   ./replace-workers.sh               # next `docker compose up` reads
set -eu
cd "$(dirname "$0")"
if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
else
  compose() { docker-compose "$@"; }
fi

# health CONTAINER...: prints the health of each.
health() { docker inspect --format '{{.State.Health.Status}}' "$@"; }

old=$(compose ps -q worker)
count=$(printf '%s\n' "$old" | grep -c .) || { echo "no worker is running" >&2; exit 1; }
compose up --detach --no-deps --no-recreate --scale worker=$((2 * count)) worker
tries=0
for container in $(compose ps -q worker); do
  case $old in *"$container"*) continue ;; esac
  until [ "$(health "$container")" = healthy ]; do
    tries=$((tries + 1))
    if [ $tries -ge 120 ]; then
      echo "the new workers are not well within two minutes; the old ones go on:" >&2
      echo "  docker logs $container" >&2
      exit 1
    fi
    sleep 1
  done
done
# In sequence, so that the remaining workers do not take over the whole load all at once.
for container in $old; do
  docker stop --time 40 "$container" >/dev/null
  docker rm "$container" >/dev/null
done
compose up --detach --no-deps --no-recreate --scale worker="$count" worker
