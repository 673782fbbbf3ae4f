-- Who ends a subscription or makes a draft final through the API may leave nothing to be billed of it.
GRANT DELETE ON billing_failures TO weir_tenant;
