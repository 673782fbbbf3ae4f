-- A deployment may run on a time that stands still until it is moved, the same for every role.
CREATE TABLE test_clock (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    now timestamptz NOT NULL,
    -- Real time; the watermark must pass it before anything up to `now` is billed.
    moved_at timestamptz NOT NULL
);

CREATE FUNCTION notify_clock() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_notify('weir_catalog', 'clock');
    RETURN NULL;
END
$$;

CREATE TRIGGER clock_moved AFTER INSERT OR UPDATE ON test_clock
    FOR EACH STATEMENT EXECUTE FUNCTION notify_clock();
