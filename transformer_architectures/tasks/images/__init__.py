"""What only the image task needs: inputs, grids of images, reports, the loss of partly known labels."""
