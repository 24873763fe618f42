module weft.dev/e2e/smi-app

go 1.26.0
