#!/bin/sh
# Starts tritonserver with what every deployment of a FAM Diffusion repository wants. Further
# options come from the command line, where the last of two that are equal counts: at least
# --model-repository, and where clients are elsewhere --http-address and --grpc-address.
set -eu

# Names this server's shared memory. A second one that shares /dev/shm needs a prefix of its own,
# which neither begins with this one nor begins it.
prefix=${FAM_SHM_PREFIX:-fam_diffusion_}
case $prefix in
*[!A-Za-z0-9_]*)
    echo "fam-triton-serve: FAM_SHM_PREFIX may have letters, digits and _ only: $prefix" >&2
    exit 2
    ;;
esac

# What a killed server left behind. The prefix tells it from others'.
rm -f "/dev/shm/$prefix"*

# Clients need inference, health and metadata. Everything else is locked with a key that nobody
# knows: shared memory and logging reach files of this container, the repository loads code.
locked=model-repository,model-config,shared-memory,statistics,trace,logging
key=$(cat /proc/sys/kernel/random/uuid)

# exec: signals reach the server, which then finishes the pictures that it has begun.
exec tritonserver \
    --http-address=127.0.0.1 \
    --grpc-address=127.0.0.1 \
    --metrics-address=127.0.0.1 \
    --model-control-mode=none \
    --exit-timeout-secs=300 \
    --backend-config="python,shm-region-prefix-name=$prefix" \
    --http-restricted-api="$locked:fam-locked=$key" \
    --grpc-restricted-protocol="$locked:fam-locked=$key" \
    --log-format=ISO8601 \
    "$@"
