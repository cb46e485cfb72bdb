#!/bin/bash
# Prints the secrets of docker-compose.yaml, made up anew: deploy/secrets.sh > .env
set -euo pipefail
secret() {
    head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'
}
umask 077
echo "FERNET_KEY=$(secret)"
for name in POSTGRES_PASSWORD API_SECRET_KEY JWT_SECRET INTERNAL_SECRET; do
    value=$(secret)
    echo "$name=${value%%=*}"
done
