-- Who is billed by which plan from when; what events name.
CREATE TABLE subscriptions (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    customer_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    external_id text NOT NULL CHECK (char_length(external_id) BETWEEN 1 AND 255),
    name text,
    started_at timestamptz NOT NULL,
    ending_at timestamptz,
    -- Before started_at: called off before it began.
    terminated_at timestamptz,
    skip_final_invoice boolean NOT NULL DEFAULT false,
    -- The next instant at which an invoice is due; none when nothing more will be.
    next_due_at timestamptz,
    ended_at timestamptz GENERATED ALWAYS AS (least(ending_at, terminated_at)) STORED,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT subscriptions_id_key UNIQUE (id),
    FOREIGN KEY (organization_id, customer_id) REFERENCES customers (organization_id, id),
    FOREIGN KEY (organization_id, plan_id) REFERENCES plans (organization_id, id),
    CONSTRAINT subscriptions_end_after_start CHECK (ending_at > started_at),
    -- An event's external id and time name at most one subscription.
    CONSTRAINT subscriptions_external_id_overlap EXCLUDE USING gist (
        organization_id WITH =,
        external_id WITH =,
        tstzrange(started_at, CASE WHEN ended_at < started_at THEN started_at ELSE ended_at END)
            WITH &&
    )
);

CREATE INDEX subscriptions_by_creation ON subscriptions (organization_id, created_at, id);
CREATE INDEX subscriptions_by_external_id ON subscriptions (organization_id, external_id);
CREATE INDEX subscriptions_by_customer ON subscriptions (organization_id, customer_id);
CREATE INDEX subscriptions_by_plan ON subscriptions (organization_id, plan_id);
-- In the order in which the invoicer takes them: at a month's end they are all due at once, and
-- none of them must be sorted.
CREATE INDEX subscriptions_due ON subscriptions (next_due_at, organization_id, customer_id)
    WHERE next_due_at IS NOT NULL;

-- The version of a period is the one with the greatest effective_from at or before its start.
CREATE TABLE subscription_plan_versions (
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    effective_from timestamptz NOT NULL,
    plan_version_id uuid NOT NULL,
    PRIMARY KEY (organization_id, subscription_id, effective_from),
    FOREIGN KEY (organization_id, subscription_id) REFERENCES subscriptions (organization_id, id),
    FOREIGN KEY (organization_id, plan_version_id) REFERENCES plan_versions (organization_id, id)
);

ALTER TABLE subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE subscription_plan_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON subscriptions TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON subscription_plan_versions TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE ON subscriptions, subscription_plan_versions TO weir_tenant;

CREATE FUNCTION catalog_record_subscription() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    current_version bigint;
BEGIN
    IF TG_OP = 'UPDATE'
        AND (OLD.external_id, OLD.started_at, OLD.ended_at)
            IS NOT DISTINCT FROM (NEW.external_id, NEW.started_at, NEW.ended_at) THEN
        RETURN NULL;
    END IF;
    current_version := catalog_next_version();
    IF TG_OP <> 'INSERT' THEN
        -- Made and changed in one transaction: nobody saw the first form.
        DELETE FROM catalog_subscriptions WHERE id = OLD.id AND version_from = current_version;
        UPDATE catalog_subscriptions SET version_to = current_version
        WHERE id = OLD.id AND version_to IS NULL;
    END IF;
    -- One that was called off before it began holds no event.
    IF TG_OP <> 'DELETE' AND (NEW.ended_at IS NULL OR NEW.ended_at > NEW.started_at) THEN
        INSERT INTO catalog_subscriptions
            (id, organization_id, external_id, started_at, ended_at, version_from)
        VALUES
            (NEW.id, NEW.organization_id, NEW.external_id, NEW.started_at, NEW.ended_at,
             current_version);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER catalog_record AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION catalog_record_subscription();

CREATE INDEX subscription_plan_versions_by_version
    ON subscription_plan_versions (organization_id, plan_version_id);
