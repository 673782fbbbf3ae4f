-- The hot path reads keys, metrics and subscriptions as of a version: history must not be forgotten.
CREATE TABLE catalog_version (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    version bigint NOT NULL CHECK (version >= 0),
    changed_by xid8 NOT NULL
);

INSERT INTO catalog_version (version, changed_by) VALUES (0, '0');

CREATE TABLE catalog_keys (
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    key_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    version_from bigint NOT NULL,
    version_to bigint CHECK (version_to > version_from),
    PRIMARY KEY (id, version_from)
);

CREATE TABLE catalog_metrics (
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    event_code text NOT NULL,
    aggregation text NOT NULL,
    field_name text,
    version_from bigint NOT NULL,
    version_to bigint CHECK (version_to > version_from),
    PRIMARY KEY (id, version_from)
);

CREATE TABLE catalog_subscriptions (
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    external_id text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz CHECK (ended_at > started_at),
    version_from bigint NOT NULL,
    version_to bigint CHECK (version_to > version_from),
    PRIMARY KEY (id, version_from)
);

CREATE UNIQUE INDEX catalog_keys_open ON catalog_keys (id) WHERE version_to IS NULL;
CREATE UNIQUE INDEX catalog_metrics_open ON catalog_metrics (id) WHERE version_to IS NULL;
CREATE UNIQUE INDEX catalog_subscriptions_open ON catalog_subscriptions (id) WHERE version_to IS NULL;
CREATE INDEX catalog_keys_from ON catalog_keys (version_from);
CREATE INDEX catalog_keys_to ON catalog_keys (version_to) WHERE version_to IS NOT NULL;
CREATE INDEX catalog_metrics_from ON catalog_metrics (version_from);
CREATE INDEX catalog_metrics_to ON catalog_metrics (version_to) WHERE version_to IS NOT NULL;
CREATE INDEX catalog_subscriptions_from ON catalog_subscriptions (version_from);
CREATE INDEX catalog_subscriptions_to ON catalog_subscriptions (version_to)
    WHERE version_to IS NOT NULL;

ALTER TABLE catalog_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalog_metrics ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalog_subscriptions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON catalog_keys TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON catalog_metrics TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON catalog_subscriptions TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());

-- The version that this transaction's changes appear in. The row stays locked until the commit, so
-- versions become visible in their own order and one transaction's changes appear together.
CREATE FUNCTION catalog_next_version() RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    taken bigint;
BEGIN
    SELECT version INTO taken FROM catalog_version WHERE changed_by = pg_current_xact_id();
    IF NOT FOUND THEN
        UPDATE catalog_version
        SET version = version + 1, changed_by = pg_current_xact_id()
        RETURNING version INTO taken;
        PERFORM pg_notify('weir_catalog', taken::text);
    END IF;
    RETURN taken;
END
$$;

REVOKE EXECUTE ON FUNCTION catalog_next_version() FROM PUBLIC;
