"""All-in-one image restoration: photographs, their degradations and the metrics of the restored images."""
