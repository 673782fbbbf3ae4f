-- Live chunks must know under which generation a subscription or a cell is counted, as of a version.
CREATE TABLE catalog_overrides (
    generation bigint NOT NULL,
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    -- None: the whole subscription.
    bucket timestamptz,
    -- Written beside the generation in effect, and not read yet.
    rolling boolean NOT NULL,
    version_from bigint NOT NULL,
    version_to bigint CHECK (version_to > version_from),
    CONSTRAINT catalog_overrides_key
        UNIQUE NULLS NOT DISTINCT (generation, subscription_id, bucket, version_from)
);

CREATE INDEX catalog_overrides_open ON catalog_overrides (organization_id, subscription_id)
    WHERE version_to IS NULL;
CREATE INDEX catalog_overrides_from ON catalog_overrides (version_from);
CREATE INDEX catalog_overrides_to ON catalog_overrides (version_to) WHERE version_to IS NOT NULL;

ALTER TABLE catalog_overrides ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON catalog_overrides TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
