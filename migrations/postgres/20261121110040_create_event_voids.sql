-- Events that count as if they had never come. The events themselves stay readable in ClickHouse.
CREATE TABLE event_voids (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    transaction_id text NOT NULL CHECK (char_length(transaction_id) BETWEEN 1 AND 255),
    external_subscription_id text NOT NULL,
    code text NOT NULL,
    timestamp timestamptz NOT NULL,
    voided_at timestamptz NOT NULL,
    voided_by text NOT NULL CHECK (char_length(voided_by) BETWEEN 1 AND 255),
    reason text CHECK (char_length(reason) BETWEEN 1 AND 1000),
    -- The first generation without the event; none: still to be computed.
    generation bigint,
    PRIMARY KEY (organization_id, transaction_id)
);

CREATE INDEX event_voids_pending ON event_voids (organization_id) WHERE generation IS NULL;

ALTER TABLE event_voids ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON event_voids TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT ON event_voids TO weir_tenant;
