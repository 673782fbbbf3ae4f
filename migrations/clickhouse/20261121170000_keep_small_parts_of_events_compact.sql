-- A chunk becomes a part of one file instead of two for each column: a fifth less work for each event.
ALTER TABLE events MODIFY SETTING min_bytes_for_wide_part = 100000000;
