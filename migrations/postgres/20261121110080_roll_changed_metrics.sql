-- A metric that may have usage already is counted from the raw events; until then nothing changes.

-- Whether nothing was ever taken from the log. Then no chunk will be written with an older catalog
-- than this transaction's, and what it adds counts from the first event on.
CREATE FUNCTION usage_starts_now() RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM log_partitions WHERE committed > 0)
        OR EXISTS (SELECT FROM chunk_intents) THEN
        RETURN false;
    END IF;
    -- Opening a chunk takes the same lock.
    PERFORM FROM log_partitions ORDER BY partition FOR UPDATE;
    IF EXISTS (SELECT FROM log_partitions WHERE committed > 0)
        OR EXISTS (SELECT FROM chunk_intents) THEN
        RETURN false;
    END IF;
    UPDATE log_partitions SET catalog_floor = catalog_next_version();
    RETURN true;
END
$$;

REVOKE EXECUTE ON FUNCTION usage_starts_now() FROM PUBLIC;

CREATE OR REPLACE FUNCTION catalog_record_metric() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    current_version bigint;
    unseen boolean;
    must_roll boolean;
BEGIN
    IF TG_OP = 'UPDATE'
        AND (OLD.event_code, OLD.aggregation, OLD.field_name, OLD.expression, OLD.deleted_at,
             metric_dimensions(OLD.filters, OLD.group_keys))
            IS NOT DISTINCT FROM
            (NEW.event_code, NEW.aggregation, NEW.field_name, NEW.expression, NEW.deleted_at,
             metric_dimensions(NEW.filters, NEW.group_keys))
    THEN
        RETURN NULL;
    END IF;
    -- Rolls start and end under the same lock.
    current_version := catalog_next_version();
    IF TG_OP <> 'INSERT' THEN
        -- Made in this transaction: nobody saw it.
        DELETE FROM catalog_metrics WHERE id = OLD.id AND version_from = current_version;
        unseen := FOUND AND NOT EXISTS (SELECT FROM catalog_metrics WHERE id = OLD.id);
    END IF;
    IF TG_OP = 'DELETE' OR NEW.deleted_at IS NOT NULL THEN
        UPDATE catalog_metrics SET version_to = current_version
        WHERE id = OLD.id AND version_to IS NULL;
        DELETE FROM usage_rolls WHERE metric_id = OLD.id AND state = 'waiting';
        UPDATE usage_rolls SET state = 'abandoned', ended_at = clock_timestamp()
        WHERE metric_id = OLD.id AND state = 'rolling';
        RETURN NULL;
    END IF;
    -- It will start with what the metric is by then.
    IF EXISTS (SELECT FROM usage_rolls WHERE metric_id = NEW.id AND state = 'waiting') THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' OR unseen THEN
        must_roll := EXISTS (
            SELECT FROM catalog_metrics
            WHERE organization_id = NEW.organization_id AND event_code = NEW.event_code
                AND id <> NEW.id
        ) OR (SELECT ever_lenient FROM organizations WHERE id = NEW.organization_id);
    ELSE
        must_roll := true;
    END IF;
    IF must_roll AND NOT usage_starts_now() THEN
        INSERT INTO usage_rolls (organization_id, kind, metric_id, state)
        VALUES (NEW.organization_id, 'metric', NEW.id, 'waiting');
        RETURN NULL;
    END IF;
    UPDATE catalog_metrics SET version_to = current_version
    WHERE id = NEW.id AND version_to IS NULL;
    INSERT INTO catalog_metrics
        (id, organization_id, event_code, aggregation, field_name, expression, dimensions,
         version_from)
    VALUES
        (NEW.id, NEW.organization_id, NEW.event_code, NEW.aggregation, NEW.field_name,
         NEW.expression, metric_dimensions(NEW.filters, NEW.group_keys), current_version);
    RETURN NULL;
END
$$;
