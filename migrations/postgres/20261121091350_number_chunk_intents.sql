-- ClickHouse forgets a chunk's token after 10,000 later ones: a number tells how far an open chunk is behind.
ALTER TABLE chunk_intents ADD COLUMN sequence bigint GENERATED ALWAYS AS IDENTITY;

-- The newest number, without reading the table.
CREATE FUNCTION chunk_intents_newest() RETURNS bigint
LANGUAGE sql STABLE
AS $$ SELECT last_value FROM chunk_intents_sequence_seq $$;
