-- What could not be billed, and why, so that an operator sees it and the invoicer passes it over for a while.
CREATE TABLE billing_failures (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    -- A subscription that is due, or a draft whose time to be finalized has come.
    subject text NOT NULL CHECK (subject IN ('subscription', 'draft')),
    subject_id uuid NOT NULL,
    due_at timestamptz NOT NULL,
    -- A word of a closed set, the label of the metric.
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 64),
    message text NOT NULL,
    attempts bigint NOT NULL DEFAULT 1 CHECK (attempts >= 1),
    -- Real time, also on a test clock.
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, subject_id)
);

CREATE INDEX billing_failures_by_retry ON billing_failures (retry_at);

ALTER TABLE billing_failures ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON billing_failures TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT ON billing_failures TO weir_tenant;
