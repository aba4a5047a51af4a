#!/bin/bash
# What the container of a Spark executor runs on Kubernetes, as the entry point of Spark's own images does; Spark passes
# the argument and the variables. The image needs nothing of Spark's beside the pip package.
set -euo pipefail
[ "${1:-}" = executor ] || { echo "usage: executor.sh executor" >&2; exit 2; }
python=${PYSPARK_PYTHON:-python3}
spark=$("$python" -c 'from importlib.util import find_spec as f; print(f("pyspark").submodule_search_locations[0])')
options=()
while IFS='=' read -r _ option; do options+=("$option"); done < <(env | grep '^SPARK_JAVA_OPT_' | sort -t_ -k4 -n)
exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${options[@]}" -Xms"$SPARK_EXECUTOR_MEMORY" -Xmx"$SPARK_EXECUTOR_MEMORY" \
  -cp "${SPARK_CONF_DIR:-}:${SPARK_CLASSPATH:-}:$spark/jars/*" \
  org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
  --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
  --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
  --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
