# Makes the namespace and Rindle's search attributes, and waits until the server accepts them in queries. Safe to run
# again. The address and the namespace come from TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE.
set -eu

# Try a command once a second, for the number of seconds given first: Temporal caches both for up to a minute.
within() {
  tries=$1
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -le 0 ]; then
      "$@"
      return
    fi
    sleep 1
  done
}

within 120 temporal operator cluster health
temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 ||
  temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 7d
within 120 temporal operator search-attribute list --namespace "$TEMPORAL_NAMESPACE"

for name in RindleKind RindleProfile RindleAssetId RindleSessionId RindleState; do
  temporal operator search-attribute list --namespace "$TEMPORAL_NAMESPACE" | grep -qw "$name" ||
    temporal operator search-attribute create --namespace "$TEMPORAL_NAMESPACE" --name "$name" --type Keyword
done
for name in RindleKind RindleProfile RindleAssetId RindleSessionId RindleState; do
  within 120 temporal workflow count --namespace "$TEMPORAL_NAMESPACE" --query "$name = 'none'"
done
echo "namespace $TEMPORAL_NAMESPACE is ready"
