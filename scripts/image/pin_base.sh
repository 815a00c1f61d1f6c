#!/usr/bin/env bash
# Pin the base image by the digest that the registry gives its tag now: writes scripts/image/base.txt, and the default of
# BASE_IMAGE in Dockerfile and apptainer.def. Needs the network, and skopeo or docker.
#   pin_base.sh [NAME:TAG]   [default: the tag in base.txt]
set -euo pipefail
cd "$(dirname "$0")/../.."
file=scripts/image/base.txt
image=${1:-$(grep -v '^#' "$file")}
image=${image%@*}
[[ ${image##*/} == *:* ]] || { echo "pin_base: '$image' has no tag: write NAME:TAG" >&2; exit 2; }
unanswered() { echo "pin_base: no digest of $image, for the reason above; nothing was written" >&2; exit 1; }

if command -v skopeo >/dev/null; then
    digest=$(skopeo inspect --format '{{.Digest}}' "docker://$image") || unanswered
elif command -v docker >/dev/null; then
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}') || unanswered
else
    echo "pin_base: neither skopeo nor docker is installed" >&2
    exit 1
fi
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "pin_base: the registry's answer is no digest: $digest" >&2; exit 1; }

{ sed -n '/^#/p' "$file"; echo "$image@$digest"; } >"$file.new"
mv "$file.new" "$file"
sed -i "s|^\(ARG BASE_IMAGE=\).*|\1$image@$digest|" Dockerfile
sed -i "s|^\( *BASE_IMAGE=\).*|\1$image@$digest|" apptainer.def
echo "$image@$digest"
