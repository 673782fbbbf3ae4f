#!/usr/bin/env bash
# A real Apache Kafka for development and tests: one node, from its own jars, without containers.
# Needs a JDK 17 or later, and Maven the first time. Offline once the jars are in the cache.
#
#   kafka.sh fetch     the jars, into the cache (once a version; several may ask at the same time)
#   kafka.sh start     in the background, until it answers
#   kafka.sh run       in the foreground
#   kafka.sh stop      and wait until it is gone; the data stays
#   kafka.sh wipe      stop and delete this instance's data
#
# Several instances run side by side, each with its own KAFKA_DIR and ports:
#   KAFKA_DIR        data, configuration, logs and pid of this instance (data/kafka of the repository)
#   KAFKA_PORT       where clients connect, on 127.0.0.1 (9092)
#   KAFKA_CTRL_PORT  the controller's own (KAFKA_PORT + 1)
#   KAFKA_HEAP       most memory of the JVM's heap (512m)
#   KAFKA_OWNER      a process id: with `start`, the broker is killed and KAFKA_DIR deleted when that
#                    process is gone, however it ended (tests)
#   KAFKA_CACHE      the jars, shared by all (${XDG_CACHE_HOME:-~/.cache}/weir/kafka)
#   KAFKA_VERSION    4.1.1
set -euo pipefail

version=${KAFKA_VERSION:-4.1.1}
scala=2.13
cache=${KAFKA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir/kafka}
dir=${KAFKA_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/data/kafka}
port=${KAFKA_PORT:-9092}
controller_port=${KAFKA_CTRL_PORT:-$((port + 1))}
lib=$cache/lib conf=$dir/conf data=$dir/data logs=$dir/logs pid_file=$dir/pid
java_options=(-Xms64m "-Xmx${KAFKA_HEAP:-512m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1
  -Djava.awt.headless=true "-Dlog4j2.configurationFile=file:$conf/log4j2.properties"
  "-Dkafka.logs.dir=$logs" -cp "$lib/*")

say() { echo "kafka: $*"; }

fetch() {
  mkdir -p "$lib" "$cache/pom"
  if [ -f "$lib/.done-$version" ]; then
    say "version $version is in $lib"
    return
  fi
  exec 9>"$cache/fetch.lock"
  flock 9
  if [ -f "$lib/.done-$version" ]; then
    exec 9>&-
    return
  fi
  say "fetching version $version into $lib with Maven"
  # kafka_$scala brings all but a log4j 2 backend, which the tarball adds, and the tools. Its
  # slf4j-api is 1.7, so the backend is log4j-slf4j-impl and not log4j-slf4j2-impl.
  cat >"$cache/pom/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-run</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$scala</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-api</artifactId><version>2.24.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.24.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-1.2-api</artifactId><version>2.24.3</version></dependency>
  </dependencies>
</project>
POM
  mvn -q -B -f "$cache/pom/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$lib"
  touch "$lib/.done-$version"
  exec 9>&-
  say "$(find "$lib" -name '*.jar' | wc -l) jars, $(du -sh "$lib" | cut -f1)"
}

configure() {
  mkdir -p "$conf" "$data" "$logs"
  cat >"$conf/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$data
auto.create.topics.enable=false
# One node: every internal topic with one copy.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
default.replication.factor=1
min.insync.replicas=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=268435456
# Kafka acknowledges from the page cache: a record survives kill -9 here, but not a power cut.
# In production three copies and min.insync.replicas=2 take care of that.
PROPERTIES
  # As properties: the tarball's YAML would need another jar.
  cat >"$conf/log4j2.properties" <<'PROPERTIES'
status=warn
appender.console.type=Console
appender.console.name=STDOUT
appender.console.target=SYSTEM_ERR
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.stdout.ref=STDOUT
PROPERTIES
  if [ ! -f "$data/meta.properties" ]; then
    say "formatting $data"
    local id
    id=$(java "${java_options[@]}" kafka.tools.StorageTool random-uuid 2>/dev/null | tail -n 1)
    java "${java_options[@]}" kafka.tools.StorageTool format -t "$id" -c "$conf/server.properties" >"$logs/format.out" 2>&1
  fi
}

running() { [ -s "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

start() {
  if running; then
    say "already running, pid $(cat "$pid_file")"
    return
  fi
  fetch
  configure
  say "starting on 127.0.0.1:$port, files in $dir"
  java "${java_options[@]}" kafka.Kafka "$conf/server.properties" >>"$logs/server.out" 2>&1 </dev/null &
  echo $! >"$pid_file"
  if [ -n "${KAFKA_OWNER:-}" ]; then
    watch_owner "$KAFKA_OWNER" "$(cat "$pid_file")" >/dev/null 2>&1 </dev/null &
  fi
  for _ in $(seq 1 240); do
    running || break
    if answers; then
      say "ready on 127.0.0.1:$port, pid $(cat "$pid_file")"
      return
    fi
    sleep 0.25
  done
  say "did not start; the end of $logs/server.out:"
  tail -n 40 "$logs/server.out"
  return 1
}

# Ends with its broker, and ends the broker with its owner.
watch_owner() {
  while kill -0 "$2" 2>/dev/null; do
    if ! kill -0 "$1" 2>/dev/null; then
      kill -9 "$2"
      rm -rf "$dir"
      return
    fi
    sleep 0.5
  done
}

stop() {
  if ! running; then
    say "not running"
    rm -f "$pid_file"
    return
  fi
  local pid
  pid=$(cat "$pid_file")
  say "stopping pid $pid"
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 1 120); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.25
  done
  if kill -0 "$pid" 2>/dev/null; then
    say "still there after 30 s, killing it"
    kill -9 "$pid"
  fi
  rm -f "$pid_file"
}

case "${1:-}" in
fetch) fetch ;;
start) start ;;
run)
  fetch
  configure
  say "running on 127.0.0.1:$port, files in $dir"
  exec java "${java_options[@]}" kafka.Kafka "$conf/server.properties"
  ;;
stop) stop ;;
wipe)
  stop
  say "deleting $data and $logs"
  rm -rf "$data" "$logs" "$conf"
  ;;
*)
  sed -n '2,19p' "$0" >&2
  exit 2
  ;;
esac
