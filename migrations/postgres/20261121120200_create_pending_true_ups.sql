-- Late events change past periods: what is asked for, and what could not be taken off an invoice yet.
ALTER TABLE invoices
    -- Real time: changes of usage from before it are in this invoice, as far as they correct others.
    -- Stays when a draft is priced again, which corrects nothing else.
    ADD COLUMN true_up_watermark timestamptz;

ALTER TABLE invoice_subscriptions
    -- Of the whole period in which the usage ends; weighted sums are divided by it.
    ADD COLUMN whole_seconds bigint CHECK (whole_seconds > 0);

-- Windows of which a negative difference was greater than the invoice that should have it.
CREATE TABLE pending_true_ups (
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    metric_id uuid NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organization_id, subscription_id, metric_id, period_start),
    FOREIGN KEY (organization_id, subscription_id) REFERENCES subscriptions (organization_id, id),
    FOREIGN KEY (organization_id, metric_id) REFERENCES billable_metrics (organization_id, id)
);

ALTER TABLE pending_true_ups ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON pending_true_ups TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());

GRANT SELECT, INSERT, DELETE ON pending_true_ups TO weir_tenant;
