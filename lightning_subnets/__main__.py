from lightning_subnets.commands.cli import main

main()
