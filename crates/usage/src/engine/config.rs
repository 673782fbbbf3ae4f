//! What the engine is told: its settings and its users.

use sha2::{Digest, Sha256};

/// The user that we speak as.
pub(super) const USER: &str = "weir";

/// Sizes are for an idle deployment that weighs little; they bound caches, not what is stored.
/// Queries are our own, short and few at a time, so pools of threads are small too. Merges give way to
/// whatever else wants the processor (nice 10): one takes a core for a second, and a chunk that waits
/// for it is seen late. Where no processor is ever left, parts add up until the engine slows inserts.
///
/// The engine's own session, which only keeps it running, is that of a user `default` without a
/// password. Over HTTP that user does not exist: requests need the header of ours.
pub(super) fn engine_xml(memory_max_bytes: u64, durable: bool) -> String {
    let fsync = u8::from(durable);
    format!(
        "<clickhouse>
  <users_config>users.xml</users_config>
  <http_handlers>
    <rule>
      <headers><X-ClickHouse-User>{USER}</X-ClickHouse-User></headers>
      <handler>
        <type>dynamic_query_handler</type>
        <query_param_name>query</query_param_name>
      </handler>
    </rule>
  </http_handlers>
  <merge_tree>
    <fsync_after_insert>{fsync}</fsync_after_insert>
    <fsync_part_directory>{fsync}</fsync_part_directory>
    <min_compressed_bytes_to_fsync_after_merge>{fsync}</min_compressed_bytes_to_fsync_after_merge>
  </merge_tree>
  <max_server_memory_usage>{memory_max_bytes}</max_server_memory_usage>
  <mark_cache_size>33554432</mark_cache_size>
  <index_mark_cache_size>8388608</index_mark_cache_size>
  <primary_index_cache_size>33554432</primary_index_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <mmap_cache_size>0</mmap_cache_size>
  <compiled_expression_cache_size>0</compiled_expression_cache_size>
  <background_pool_size>2</background_pool_size>
  <os_threads_nice_value_merge_mutate>10</os_threads_nice_value_merge_mutate>
  <background_schedule_pool_size>2</background_schedule_pool_size>
  <max_thread_pool_size>256</max_thread_pool_size>
  <max_thread_pool_free_size>4</max_thread_pool_free_size>
  <max_connections>128</max_connections>
  <keep_alive_timeout>60</keep_alive_timeout>
</clickhouse>
"
    )
}

pub(super) fn users_xml(password: &str) -> String {
    let hash = Sha256::digest(password.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "<clickhouse>
  <profiles>
    <default>
      <log_queries>0</log_queries>
      <compile_expressions>0</compile_expressions>
      <compile_aggregate_expressions>0</compile_aggregate_expressions>
      <compile_sort_description>0</compile_sort_description>
    </default>
  </profiles>
  <users>
    <default>
      <no_password/>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
      </grants>
    </default>
    <{USER}>
      <password_sha256_hex>{hash}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </{USER}>
  </users>
  <quotas><default/></quotas>
</clickhouse>
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_only_in_the_file_as_its_hash() {
        let users = users_xml("abc");
        assert!(!users.contains("abc<"));
        assert!(users.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    }
}
