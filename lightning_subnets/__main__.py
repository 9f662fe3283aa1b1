from lightning_subnets.cli import main

main()
