-- Tenants change their own name and settings through the API.
GRANT UPDATE (name, lenient, ever_lenient, late_events, events_per_second_max)
    ON organizations TO weir_tenant;
