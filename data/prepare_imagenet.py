"""Write FFCV's files of ImageNet, or of any folder of images: see README.md beside this file, or --help."""

from lightning_subnets.commands.prepare_images import main

if __name__ == "__main__":
    main()
