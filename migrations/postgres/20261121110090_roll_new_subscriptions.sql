-- Events of a lenient organization may have come before the subscription that they name.
CREATE OR REPLACE FUNCTION catalog_record_subscription() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    current_version bigint;
    roll usage_rolls;
BEGIN
    IF TG_OP = 'UPDATE'
        AND (OLD.external_id, OLD.started_at, OLD.ended_at)
            IS NOT DISTINCT FROM (NEW.external_id, NEW.started_at, NEW.ended_at) THEN
        RETURN NULL;
    END IF;
    -- Rolls start and end under the same lock.
    current_version := catalog_next_version();
    IF TG_OP <> 'INSERT' THEN
        -- Made and changed in one transaction: nobody saw the first form.
        DELETE FROM catalog_subscriptions WHERE id = OLD.id AND version_from = current_version;
        UPDATE catalog_subscriptions SET version_to = current_version
        WHERE id = OLD.id AND version_to IS NULL;
    END IF;
    -- One that was called off before it began holds no event.
    IF TG_OP = 'DELETE' OR NEW.ended_at <= NEW.started_at THEN
        RETURN NULL;
    END IF;
    INSERT INTO catalog_subscriptions
        (id, organization_id, external_id, started_at, ended_at, version_from)
    VALUES
        (NEW.id, NEW.organization_id, NEW.external_id, NEW.started_at, NEW.ended_at,
         current_version);
    -- What it held before is counted already.
    IF TG_OP = 'UPDATE' AND NEW.external_id = OLD.external_id
        AND tstzrange(NEW.started_at, NEW.ended_at)
            <@ tstzrange(OLD.started_at, CASE WHEN OLD.ended_at < OLD.started_at
                THEN OLD.started_at ELSE OLD.ended_at END) THEN
        RETURN NULL;
    END IF;
    IF NOT (SELECT ever_lenient FROM organizations WHERE id = NEW.organization_id)
        OR usage_starts_now() THEN
        RETURN NULL;
    END IF;
    -- Only the newest roll may take it up: voids that came later belong to later rolls.
    SELECT * INTO roll FROM usage_rolls
    WHERE organization_id = NEW.organization_id
    ORDER BY generation DESC
    LIMIT 1;
    IF roll.generation IS NULL OR roll.kind <> 'subscriptions' OR roll.state <> 'waiting' THEN
        INSERT INTO usage_rolls (organization_id, kind, state)
        VALUES (NEW.organization_id, 'subscriptions', 'waiting')
        RETURNING * INTO roll;
    END IF;
    INSERT INTO usage_roll_cells (generation, organization_id, subscription_id)
    VALUES (roll.generation, NEW.organization_id, NEW.id)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
