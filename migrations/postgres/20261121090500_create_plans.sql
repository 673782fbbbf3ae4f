-- What is sold: a plan and its versions, since a price change never rewrites a past period.
CREATE TABLE plans (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    id uuid NOT NULL,
    code text NOT NULL CHECK (char_length(code) BETWEEN 1 AND 255),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    description text,
    invoice_display_name text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT plans_id_key UNIQUE (id)
);

CREATE UNIQUE INDEX plans_code_key ON plans (organization_id, code) WHERE deleted_at IS NULL;
CREATE INDEX plans_by_creation ON plans (organization_id, created_at, id);

CREATE TABLE plan_versions (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    plan_id uuid NOT NULL,
    number integer NOT NULL CHECK (number >= 1),
    interval text NOT NULL CHECK (interval IN ('monthly')),
    -- Whole minor units, at most 2^53, which every JSON reader keeps exactly.
    amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 0 AND 9007199254740992),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    pay_in_advance boolean NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT plan_versions_id_key UNIQUE (id),
    FOREIGN KEY (organization_id, plan_id) REFERENCES plans (organization_id, id),
    CONSTRAINT plan_versions_number_key UNIQUE (organization_id, plan_id, number)
);

CREATE TABLE charges (
    organization_id uuid NOT NULL,
    plan_version_id uuid NOT NULL,
    -- A charge keeps its id from version to version.
    id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    code text NOT NULL CHECK (char_length(code) BETWEEN 1 AND 255),
    metric_id uuid NOT NULL,
    invoice_display_name text,
    model jsonb NOT NULL CHECK (jsonb_typeof(model) = 'object' AND model ? 'model'),
    PRIMARY KEY (organization_id, plan_version_id, id),
    FOREIGN KEY (organization_id, plan_version_id) REFERENCES plan_versions (organization_id, id),
    FOREIGN KEY (organization_id, metric_id) REFERENCES billable_metrics (organization_id, id),
    CONSTRAINT charges_code_key UNIQUE (organization_id, plan_version_id, code),
    CONSTRAINT charges_position_key UNIQUE (organization_id, plan_version_id, position)
);

CREATE INDEX charges_by_metric ON charges (organization_id, metric_id);

ALTER TABLE plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE plan_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE charges ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON plans TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON plan_versions TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON charges TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE ON plans TO weir_tenant;
-- Versions and their charges are never changed once written.
GRANT SELECT, INSERT ON plan_versions, charges TO weir_tenant;
